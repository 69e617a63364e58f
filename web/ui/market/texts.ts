// Texts of the market page.

import { type Shared, shared } from "../shared/texts";
import type { Texts } from "../shared/i18n";

const own = {
  title: ["live quotes", "实时行情"],
  dashboard: ["Dashboard", "仪表盘"],
  as_of: ["Not live: prices as of {time}", "非实时：价格截至 {time}"],
  as_of_short: ["as of {time}", "截至 {time}"],
  no_prices: ["Not live: no prices have arrived yet", "非实时：尚未收到价格"],
  cut_title: ["Test a reconnect", "测试重连"],
  cut: ["Disconnect", "断开"],
  cut_hint: ["Ends this page's connection for three seconds; it comes back by itself.", "断开本页连接三秒，随后自动恢复。"],
  rate: ["Messages", "消息"],
  per_second: ["/s", "/秒"],
  round_trip: ["Round trip", "往返时延"],
  received: ["Received", "已接收"],
  conflated: ["Conflated", "已合并"],
  conflated_hint: ["by newer values", "被更新的值取代"],
  lost: ["Lost", "丢失"],
  lost_hint: ["sequence gaps", "序号缺口"],
  reconnects: ["Reconnects", "重连"],
  rooms_anew: ["{n} room with a gap|{n} rooms with a gap", "{n} 个房间有缺失"],
  node: ["Node", "节点"],
  since_open: ["on this page", "自打开本页起"],
  caption: [
    "Latest quote of each symbol, refreshed up to four times a second, with volumes in small print. Changes are measured from the day's open. Select a symbol to see its chart.",
    "各品种最新报价，每秒最多刷新四次，小字为数量。涨跌幅以当日开盘价为基准。点击品种查看图表。",
  ],
  symbol: ["Symbol", "品种"],
  exchange: ["Exchange", "交易所"],
  last: ["Last", "最新"],
  bid: ["Bid", "买价"],
  ask: ["Ask", "卖价"],
  change: ["Since open", "较开盘"],
  change_hint: [
    "Change from the day's open (the first price of the trading day) to the latest price. The open is that of the stored day bar, so every viewer sees the same change.",
    "从当日开盘价（交易日的首个价格）到最新价的涨跌幅。开盘价取自存储的日K线，因此所有查看者看到的涨跌幅一致。",
  ],
  change_from: ["Change from the day's open, {open}", "较当日开盘价 {open} 的涨跌幅"],
  change_unknown: ["The day's open is not known yet", "当日开盘价尚未知"],
  from_open: ["since the day's open", "较当日开盘"],
  trend: ["One-minute bars", "一分钟K线"],
  time: ["Time", "时间"],
  seq: ["Sequence", "序号"],
  seq_hint: ["Sequence number of the newest message; in small print, how many messages were replaced by newer ones.", "最新消息的序号；小字为被更新的消息取代的消息数。"],
  waiting_title: ["Waiting for the first quote.", "正在等待首个报价。"],
  waiting_how: ["To publish some, run", "可运行以下命令发布行情："],
  ticks: ["Ticks", "逐笔"],
  bars: ["1 min", "1 分钟"],
  chart_text_bars: ["{symbol}: {n} one-minute bar, last {close}, lowest {low}, highest {high}|{symbol}: {n} one-minute bars, last {close}, lowest {low}, highest {high}", "{symbol}：{n} 根一分钟K线，最新 {close}，最低 {low}，最高 {high}"],
  chart_text_ticks: ["{symbol}: the last {n} tick, at {close}|{symbol}: the last {n} ticks, last {close}, lowest {low}, highest {high}", "{symbol}：最近 {n} 笔，最新 {close}，最低 {low}，最高 {high}"],
  no_bars: ["No bars for this symbol yet.", "该品种暂无K线。"],
  more_data: ["Waiting for more data.", "正在等待更多数据。"],
  bar_count: ["{n} bar|{n} bars", "{n} 根K线"],
  tick_count: ["{n} tick|{n} ticks", "{n} 笔"],
  high: ["High", "最高"],
  low: ["Low", "最低"],
  spread: ["Spread", "价差"],
  bars_problem: ["Stored bars are unavailable: {why}", "无法获取已存储的K线：{why}"],
  rooms_problem: ["The list of symbols is unavailable: {why}", "无法获取品种列表：{why}"],
  room_problem: ["Cannot subscribe to {room}: {why}", "无法订阅 {room}：{why}"],
  and_more: ["{n} more symbol is not shown.|{n} more symbols are not shown.", "另有 {n} 个品种未显示。"],
  no_symbols: [
    "Only operators and publishers can list all symbols, and your watchlist is empty. Add symbols to it, or name them in the address: ?symbols=EURUSD,ACME",
    "仅 operator 与 publisher 可列出全部品种，且您的自选列表为空。请添加自选，或在地址中指定：?symbols=EURUSD,ACME",
  ],
  nobody: ["This token gives no access. Sign in with another one.", "此令牌无访问权限，请换用其他令牌登录。"],
  footer: [
    "Live figures arrive over one WebSocket connection. Conflation applies to this page only.",
    "实时数据经由一个 WebSocket 连接到达，合并仅影响本页。",
  ],
  session: ["Session", "会话"],
} as const;

export type Key = Shared | keyof typeof own;

export const texts: Texts<Key> = { ...shared, ...own };
